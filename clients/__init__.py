"""The hospital's side: the site that holds the records, and its Flower ClientApp."""
