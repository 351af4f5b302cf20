"""Three-digit additions, trained from scratch on a CPU in minutes: the data, the model and the plots."""
