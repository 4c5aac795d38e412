"""Where do problems come from?"""
