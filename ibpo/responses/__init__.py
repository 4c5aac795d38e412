"""How does a response group ask, look and end?"""
