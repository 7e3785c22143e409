"""Who may do what: accounts, tokens, guards."""
