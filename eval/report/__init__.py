"""Tables, figures and pages rendered from results.json."""
