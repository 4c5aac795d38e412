"""An OpenAI-compatible gateway that holds a budget on live traffic. Needs the extra `ibpo[serve]`."""
