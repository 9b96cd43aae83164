"""The rules, one function each. `llmkit.diagnose.engine.RULES` lists them."""
