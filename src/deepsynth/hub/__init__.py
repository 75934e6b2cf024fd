"""Everything that talks to the Hugging Face Hub; knows neither torch nor Lightning."""
