"""How good, at what cost, inside the budget?"""
