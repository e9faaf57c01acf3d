"""Local training: base model + plan + examples -> trained adapters. One model in memory serves every client in turn."""
