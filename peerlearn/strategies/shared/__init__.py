"""What several strategies have in common: averages, answers, teachers, routes, optimizers, options."""
