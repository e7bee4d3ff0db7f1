"""Training loops for regression and classification, and the rules of transfer."""
