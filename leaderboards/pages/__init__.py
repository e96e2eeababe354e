"""The leaderboard as pages: Markdown, HTML, LaTeX, csv, figures."""
