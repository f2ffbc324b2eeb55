"""Chats that go on: what was said before is put in front of a call, and its answer behind it."""
