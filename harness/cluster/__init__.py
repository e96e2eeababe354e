"""Ray: replicas that answer, workers that train, and the turns they take."""
