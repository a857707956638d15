"""What a trained meta-learner does right and wrong: measurements that ask for nothing but the learner and its tasks."""
