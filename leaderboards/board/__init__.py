"""The leaderboard as data: rows, subgroups and their schema."""
