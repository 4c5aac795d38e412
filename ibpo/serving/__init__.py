"""Keep the budget while answering."""
