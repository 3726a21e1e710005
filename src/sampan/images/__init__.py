"""What an image is: references, manifests, configs, tags over blobs, archives."""
