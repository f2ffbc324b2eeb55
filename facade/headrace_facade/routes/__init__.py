"""Delivery: each route reads its request and calls one service."""
