"""REST: the routes that `handle_api_request` answers."""
