"""Networks that measure and never teach: no model of this project was trained against one of them."""
