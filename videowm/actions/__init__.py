"""What an action is, how actions are grouped by latent step and how a user writes them."""
