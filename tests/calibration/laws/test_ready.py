"""Ready laws: closed forms, derivatives at the edges, first guesses that lead to the truth, published fits."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

from scimeta import laws
from scimeta.calibration.data.curves import Curve
from scimeta.calibration.fits.calibrator import Calibrator
from scimeta.calibration.fits.least_squares import LeastSquares
from scimeta.calibration.laws.law import Law
from scimeta.calibration.learning.learn_prior import learn_prior

F64 = torch.float64

# Typical values, and the x at which somebody would measure.
CASES = {
    "one_compartment": (laws.ONE_COMPARTMENT, {"ke": 0.09, "ka": 1.6, "Cl": 0.04}, np.geomspace(0.25, 24.0, 10)),
    "one_compartment_dose": (
        laws.one_compartment_law(320.0),
        {"ke": 0.09, "ka": 1.6, "Cl": 3.0},
        np.geomspace(0.2, 30, 9),
    ),
    "logistic": (laws.LOGISTIC, {"asymptote": 190.0, "midpoint": 730.0, "scale": 350.0}, np.linspace(100, 1600, 9)),
    "gompertz": (laws.GOMPERTZ, {"asymptote": 64.0, "rate": 0.12, "inflection": 9.0}, np.linspace(0.0, 30.0, 9)),
    "chapman": (laws.CHAPMAN_RICHARDS, {"asymptote": 71.0, "rate": 0.085, "shape": 1.9}, np.linspace(0.0, 40.0, 9)),
    "michaelis": (laws.MICHAELIS_MENTEN, {"v_max": 212.0, "K_m": 0.064}, np.geomspace(0.02, 1.1, 7)),
    "dose": (
        laws.FOUR_PARAMETER_LOGISTIC,
        {"bottom": 0.1, "top": 2.4, "ec50": 4.5, "hill": 0.94},
        np.append(0.0, np.geomspace(0.05, 50.0, 9)),
    ),
    "inhibitor": (
        laws.FOUR_PARAMETER_LOGISTIC,
        {"bottom": 98.0, "top": 4.0, "ec50": 2e-7, "hill": 1.3},
        np.geomspace(1e-9, 1e-5, 9),
    ),
    "asymptotic": (laws.ASYMPTOTIC, {"start": -8.2, "asymptote": 94.0, "rate": 0.04}, np.linspace(3.0, 25.0, 7)),
    "decline": (laws.ASYMPTOTIC, {"start": 8.0, "asymptote": 2.0, "rate": 0.7}, np.linspace(0.0, 6.0, 7)),
    "arrhenius": (laws.ARRHENIUS, {"k_ref": 2e-4, "energy": 8.5e4}, np.linspace(290.0, 360.0, 6)),
    "arrhenius_hot": (laws.arrhenius_law(900.0), {"k_ref": 0.1, "energy": 2e5}, np.linspace(800.0, 1000.0, 6)),
    "power": (laws.POWER_LAW, {"coefficient": 3.4, "exponent": 0.75}, np.geomspace(0.02, 900.0, 8)),
    "falling_power": (laws.POWER_LAW, {"coefficient": 3.4, "exponent": -1.4}, np.geomspace(0.5, 90.0, 8)),
}
EVERY = pytest.mark.parametrize("law, values, x", CASES.values(), ids=CASES)


def tensors(values: dict[str, float], **grad: bool) -> dict[str, torch.Tensor]:
    return {name: torch.tensor(value, dtype=F64, **grad) for name, value in values.items()}


class TestClosedForms:
    @pytest.mark.parametrize("ke, ka", [(0.1, 1.5), (1.5, 0.1), (0.4, 0.4), (0.4, 0.4 + 1e-9), (0.4, 0.41)])
    def test_one_compartment_solves_its_differential_equations(self, ke, ka):
        times, volume, dose = np.linspace(0.0, 12.0, 13), 25.0, 320.0
        rates = lambda t, s: [-ka * s[0], ka * s[0] / volume - ke * s[1]]  # noqa: E731
        exact = solve_ivp(rates, (0.0, 12.0), [dose, 0.0], t_eval=times, rtol=1e-10, atol=1e-12).y[1]
        ours = laws.one_compartment_law(dose)(times, ke=ke, ka=ka, Cl=ke * volume)
        np.testing.assert_allclose(ours, exact, rtol=1e-7, atol=1e-9)

    def test_nothing_is_absorbed_before_the_dose(self):
        assert (laws.ONE_COMPARTMENT([-2.0, 0.0], ke=0.1, ka=1.0, Cl=1.0) == 0.0).all()

    def test_the_rates_of_one_compartment_may_change_places(self):
        x = np.linspace(0.0, 9.0, 7)
        a, b = (laws.ONE_COMPARTMENT(x, ke=ke, ka=ka, Cl=0.3) for ke, ka in ((0.2, 1.1), (1.1, 0.2)))
        torch.testing.assert_close(a, b, rtol=1e-14, atol=0.0)

    @pytest.mark.parametrize(
        "law, values, growth",
        [
            (laws.LOGISTIC, {"asymptote": 5.0, "midpoint": 2.0, "scale": 0.7}, lambda y: y * (1 - y / 5) / 0.7),
            (laws.GOMPERTZ, {"asymptote": 5.0, "rate": 0.6, "inflection": 2.0}, lambda y: 0.6 * y * np.log(5 / y)),
            (
                laws.CHAPMAN_RICHARDS,
                {"asymptote": 5.0, "rate": 0.6, "shape": 2.5},
                lambda y: 0.6 * 2.5 * y * ((5 / y) ** 0.4 - 1),
            ),
            (laws.ASYMPTOTIC, {"start": 1.0, "asymptote": 5.0, "rate": 0.6}, lambda y: 0.6 * (5 - y)),
        ],
        ids=["logistic", "gompertz", "chapman", "asymptotic"],
    )
    def test_growth_laws_solve_their_differential_equations(self, law, values, growth):
        x = np.linspace(0.5, 8.0, 12)
        ours = law(x, **values).numpy()
        exact = solve_ivp(lambda _, y: growth(y), (0.5, 8.0), ours[:1], t_eval=x, rtol=1e-10, atol=1e-12).y[0]
        np.testing.assert_allclose(ours, exact, rtol=1e-7)

    def test_the_other_laws_are_their_formulas(self):
        x = np.array([0.4, 2.0, 7.0])
        np.testing.assert_allclose(laws.MICHAELIS_MENTEN(x, v_max=3.0, K_m=0.5), 3 * x / (0.5 + x), rtol=1e-14)
        dose = laws.FOUR_PARAMETER_LOGISTIC(x, bottom=1.0, top=4.0, ec50=2.0, hill=1.7)
        np.testing.assert_allclose(dose, 1 + 3 / (1 + (2 / x) ** 1.7), rtol=1e-13)
        np.testing.assert_allclose(laws.POWER_LAW(x, coefficient=2.0, exponent=-0.7), 2 * x**-0.7, rtol=1e-13)
        hot = 300 + 20 * x
        k = laws.ARRHENIUS(hot, k_ref=0.3, energy=6e4)
        np.testing.assert_allclose(k, 0.3 * np.exp(-6e4 / 8.314462618 * (1 / hot - 1 / 298.15)), rtol=1e-13)


class TestDerivatives:
    @EVERY
    def test_they_agree_with_finite_differences(self, law, values, x):
        x, u = torch.from_numpy(x), law.unconstrain(tensors(values))
        y, by = law.linearized({n: v[None] for n, v in u.items()}, x[None])
        for name in law.names:
            step = 1e-6 * max(1.0, abs(float(u[name])))
            ends = [law.curve({**u, name: u[name] + side * step}, x) for side in (1, -1)]
            size = float(y.abs().max())
            torch.testing.assert_close(by[name][0], (ends[0] - ends[1]) / (2 * step), rtol=1e-5, atol=1e-7 * size)

    @EVERY
    def test_they_are_finite_all_over_the_supports(self, law, values, x):
        generator = torch.Generator().manual_seed(0)
        centre = torch.stack(list(law.unconstrain(tensors(values)).values()))
        real = torch.tensor([p.support == "real" for p in law.parameters.values()])
        reach = torch.where(real, 10.0 * centre.abs(), 25.0)
        u = centre + reach * (2 * torch.rand(4000, len(law.names), generator=generator, dtype=F64) - 1)
        lowest = {"power law": 1e-12}.get(law.name, 1.0 if law.x.name == "temperature" else 0.0)
        points = torch.from_numpy(np.append(x, lowest))
        y, by = law.linearized(dict(zip(law.names, u.T, strict=True)), points.expand(len(u), -1))
        assert torch.isfinite(y).all()
        for name in law.names:
            assert torch.isfinite(by[name]).all(), name

    def test_equal_rates_have_the_derivatives_of_the_limit(self):
        x, k = torch.linspace(0.0, 5.0, 6, dtype=F64), 0.4
        values = tensors({"ke": k, "ka": k, "Cl": 0.1}, requires_grad=True)
        by_ka = torch.autograd.functional.jacobian(lambda ka: laws.one_compartment(x, values["ke"], ka, values["Cl"]),
                                                   values["ka"])  # fmt: skip
        by_ke = torch.autograd.functional.jacobian(lambda ke: laws.one_compartment(x, ke, values["ka"], values["Cl"]),
                                                   values["ke"])  # fmt: skip
        limit = k * x * (1 - k * x / 2) * torch.exp(-k * x) / 0.1
        torch.testing.assert_close(by_ka, limit, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(by_ke, limit, rtol=1e-12, atol=1e-12)


class TestFirstGuesses:
    @EVERY
    def test_with_least_squares_they_lead_to_the_truth(self, law, values, x):
        fit = LeastSquares(law).fit(x, law(x, **values).numpy())
        assert fit.converged
        for name, value in values.items():
            assert fit[name].value == pytest.approx(value, rel=1e-5), name

    @EVERY
    def test_whatever_the_points_they_are_inside_the_supports(self, law, values, x):
        rng = np.random.default_rng(0)
        for points in (1, 2, 3, len(x)):
            for y in (rng.normal(size=points), np.zeros(points), -np.ones(points), 1e6 * rng.random(points)):
                guess = law.first_guess(x[:points], y)
                law.require(guess)
                law.unconstrain({name: torch.tensor(value, dtype=F64) for name, value in guess.items()})

    @pytest.mark.parametrize("case", ["one_compartment", "gompertz", "michaelis", "asymptotic"])
    def test_a_family_is_learned_and_a_new_member_calibrated(self, case):
        law, values, x = CASES[case]
        rng = np.random.default_rng(1)
        centre = {name: float(v) for name, v in law.unconstrain(tensors(values)).items()}
        sd = {n: 0.1 * (abs(centre[n]) if law.parameters[n].support == "real" else 1.0) for n in law.names}

        def member(name: str) -> tuple[dict[str, torch.Tensor], Curve]:
            u = {n: torch.tensor(centre[n] + sd[n] * rng.standard_normal(), dtype=F64) for n in law.names}
            y = law.curve(u, torch.from_numpy(x)).numpy()
            return u, Curve(name, x, y + 0.01 * scale * rng.standard_normal(len(x)))

        scale = float(law(x, **values).abs().max())
        prior = learn_prior(law, [member(f"S{i}")[1] for i in range(25)], components=1)
        assert prior.converged
        truth, curve = member("new")
        fit = Calibrator(law, prior, level=0.999).fit(curve.x[::2], curve.y[::2])
        for name, value in law.constrain(truth).items():
            assert fit[name].lower < float(value) < fit[name].upper, name


class TestPublishedFits:
    """What R's documentation prints for nls on data that come with R; Bates and Watts (1988) for puromycin."""

    def test_puromycin(self):
        conc = np.repeat([0.02, 0.06, 0.11, 0.22, 0.56, 1.1], 2)
        rate = [76, 47, 97, 107, 123, 139, 159, 152, 191, 201, 207, 200]
        fit = LeastSquares(laws.MICHAELIS_MENTEN).fit(conc, rate)
        assert fit["v_max"].value == pytest.approx(212.7, abs=0.05)
        assert fit["K_m"].value == pytest.approx(0.06412, abs=5e-6)
        assert fit["v_max"].std == pytest.approx(6.947, rel=1e-3)
        assert fit.batch.draws.noise[0] == pytest.approx(10.93, abs=0.005)

    CONC = np.repeat([0.04882812, 0.1953125, 0.390625, 0.78125, 1.5625, 3.125, 6.25, 12.5], 2)
    DENSITY = (0.017, 0.018, 0.121, 0.124, 0.206, 0.215, 0.377, 0.374, 0.614, 0.609, 1.019, 1.001, 1.334, 1.364, 1.73,
               1.71)  # fmt: skip

    def test_an_elisa_by_its_four_parameters(self):
        fit = LeastSquares(laws.FOUR_PARAMETER_LOGISTIC).fit(self.CONC, self.DENSITY)
        assert fit["bottom"].value == pytest.approx(-0.0079, abs=5e-5)
        assert fit["top"].value == pytest.approx(2.3772, abs=5e-5)
        assert np.log(fit["ec50"].value) == pytest.approx(1.5074, abs=5e-5)
        assert 1 / fit["hill"].value == pytest.approx(1.0626, abs=5e-5)

    def test_an_elisa_by_three_and_by_gompertz(self):
        fit = LeastSquares(laws.LOGISTIC).fit(np.log(self.CONC), self.DENSITY)
        assert fit["asymptote"].value == pytest.approx(2.34518, abs=5e-6)
        assert fit["midpoint"].value == pytest.approx(1.48309, abs=5e-6)
        assert fit["scale"].value == pytest.approx(1.04146, abs=1e-5)
        fit = LeastSquares(laws.GOMPERTZ).fit(np.log(self.CONC), self.DENSITY)
        assert fit["asymptote"].value == pytest.approx(4.6033, abs=1e-4)
        assert np.exp(fit["rate"].value * fit["inflection"].value) == pytest.approx(2.2713, abs=1e-4)
        assert np.exp(-fit["rate"].value) == pytest.approx(0.7165, abs=5e-5)

    def test_a_chick_that_is_far_from_its_asymptote(self):
        weight = [42, 51, 59, 64, 76, 93, 106, 125, 149, 171, 199, 205]
        fit = LeastSquares(laws.LOGISTIC).fit([0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 21], weight)
        assert fit["asymptote"].value == pytest.approx(937.03, rel=2e-5)
        assert fit["midpoint"].value == pytest.approx(35.223, abs=5e-4)
        assert fit["scale"].value == pytest.approx(11.405, abs=5e-4)

    def test_uptake_of_carbon_dioxide(self):
        fit = LeastSquares(laws.ASYMPTOTIC).fit(
            [95, 175, 250, 350, 500, 675, 1000], [16.0, 30.4, 34.8, 37.2, 35.3, 39.2, 39.7]
        )
        asymptote, start, rate = (fit[name].value for name in ("asymptote", "start", "rate"))
        assert asymptote == pytest.approx(38.1398, abs=5e-5)
        assert np.log(rate) == pytest.approx(-4.3806, abs=1e-4)
        assert np.log(1 - start / asymptote) / rate == pytest.approx(51.2232, abs=5e-4)

    def test_a_loblolly_pine(self):
        fit = LeastSquares(laws.ASYMPTOTIC).fit([3, 5, 10, 15, 20, 25], [3.93, 9.34, 26.08, 37.79, 48.31, 56.43])
        assert fit["asymptote"].value == pytest.approx(94.1282, abs=5e-4)
        assert fit["start"].value == pytest.approx(-8.2508, abs=1e-4)
        assert np.log(fit["rate"].value) == pytest.approx(-3.2176, abs=1e-4)

    def test_theophylline_in_one_subject(self):
        times = [0, 0.25, 0.57, 1.12, 2.02, 3.82, 5.1, 7.03, 9.05, 12.12, 24.37]
        conc = [0.74, 2.84, 6.57, 10.5, 9.66, 8.58, 8.36, 7.47, 6.89, 5.94, 3.28]
        fit = LeastSquares(laws.one_compartment_law(4.02)).fit(times, conc)
        assert np.log(fit["ke"].value) == pytest.approx(-2.9196, abs=5e-5)
        assert np.log(fit["ka"].value) == pytest.approx(0.5752, abs=5e-5)
        assert np.log(fit["Cl"].value) == pytest.approx(-3.9159, abs=5e-5)


class TestUnits:
    @pytest.mark.parametrize(
        "law, x, y, units",
        [
            (laws.ONE_COMPARTMENT, "time [h]", "concentration / dose [1/L]", ["1/h", "1/h", "L/h"]),
            (laws.ONE_COMPARTMENT, "time [h]", "concentration / dose [kg/L]", ["1/h", "1/h", "L/(h kg)"]),
            (laws.ONE_COMPARTMENT, "time [h]", "flow / dose [m/s/g]", ["1/h", "1/h", "1/(h (m/s/g))"]),
            (laws.ONE_COMPARTMENT, "time [h]", "concentration / dose", ["1/h", "1/h", "1/h"]),
            (laws.MICHAELIS_MENTEN, "substrate [ppm]", "rate [1/min^2]", ["1/min^2", "ppm"]),
            (laws.CHAPMAN_RICHARDS, "age [a]", "height [m]", ["m", "1/a", ""]),
            (laws.POWER_LAW, "mass [kg]", "power [W]", ["W kg^-exponent", ""]),
            (laws.POWER_LAW, "rate [1/s]", "stress", ["(1/s)^-exponent", ""]),
            (laws.POWER_LAW, None, "stress [MPa]", ["MPa x^-exponent", ""]),
        ],
    )
    def test_the_parameters_take_them_from_the_axes(self, law, x, y, units):
        named = laws.in_units(law, x, y)
        assert [p.unit for p in named.parameters.values()] == units
        assert str(named.y) == y
        assert named.first_guess is law.first_guess and named.fn is law.fn

    def test_are_given_once(self):
        law = laws.in_units(laws.LOGISTIC, "age [d]", "size [y]")
        with pytest.raises(ValueError, match=r"has age \[d\] on its x axis already"):
            laws.in_units(law, "age [h]")


class TestDoors:
    @pytest.mark.parametrize(
        "law, x, message",
        [
            (laws.ONE_COMPARTMENT, [-1.0, 2.0], "specimen 'specimen': x = -1 is negative"),
            (laws.MICHAELIS_MENTEN, [-0.1, 2.0], "is negative"),
            (laws.POWER_LAW, [0.0, 2.0], "x = 0 is not positive"),
            (laws.ARRHENIUS, [-20.0, 40.0], "give it in K"),
        ],
    )
    def test_numbers_that_a_law_rules_out_are_named(self, law, x, message):
        with pytest.raises(ValueError, match=message):
            LeastSquares(law).fit(x, [1.0, 2.0])

    def test_a_dose_and_a_reference_temperature_are_positive(self):
        with pytest.raises(ValueError, match="dose must be a positive number; got 0"):
            laws.one_compartment_law(0.0)
        with pytest.raises(ValueError, match="absolute temperature, K; got -5"):
            laws.arrhenius_law(-5.0)

    def test_every_law_is_one_broadcast_call(self):
        constants = [value for value in vars(laws).values() if isinstance(value, Law)]
        assert len(constants) == 9
        assert all(law.pointwise for law in constants)
