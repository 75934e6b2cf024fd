"""What Unlimited-OCR has besides transformers' own classes: views without torchvision, and the published names."""
