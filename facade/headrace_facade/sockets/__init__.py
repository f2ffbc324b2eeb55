"""WebSockets: who may open one, how it is kept from taking more than its share, and what is said on it."""
