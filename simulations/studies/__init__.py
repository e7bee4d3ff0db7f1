"""Studies: arms that share everything but one thing, compared patient by patient."""
