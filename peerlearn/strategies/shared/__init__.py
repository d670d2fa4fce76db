"""Code shared by several strategies: averages, answers, teachers, routes, optimizers, options."""
