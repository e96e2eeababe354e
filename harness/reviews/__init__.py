"""What raters say of a run's reports: `fold` makes a present state of events, `store` keeps the events, `reports` are
what is reviewed, `workload` what reading the doubtful sentences costs and catches, `exports` what others read."""
