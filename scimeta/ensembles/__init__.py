"""Committees of models: whom to trust, and when; honest, since no model is judged on rows that it was trained on."""

from scimeta.ensembles.alarm import AgreementAlarm, agreement_alarm
from scimeta.ensembles.cross_fit import CrossFit, cross_fit
from scimeta.ensembles.diagnosis import StackDiagnosis
from scimeta.ensembles.experts import MixtureOfExpertsClassifier, MixtureOfExpertsRegressor
from scimeta.ensembles.guards import diagnose_stack
from scimeta.ensembles.report import CVReport, cv_report
from scimeta.ensembles.robust import RobustBlend, environment_dro, group_dro
from scimeta.ensembles.stability import SlopeStability, slope_stability
from scimeta.ensembles.super_learner import SuperLearnerClassifier, SuperLearnerRegressor

__all__ = [
    "AgreementAlarm",
    "CVReport",
    "CrossFit",
    "MixtureOfExpertsClassifier",
    "MixtureOfExpertsRegressor",
    "RobustBlend",
    "SlopeStability",
    "StackDiagnosis",
    "SuperLearnerClassifier",
    "SuperLearnerRegressor",
    "agreement_alarm",
    "cross_fit",
    "cv_report",
    "diagnose_stack",
    "environment_dro",
    "group_dro",
    "slope_stability",
]
