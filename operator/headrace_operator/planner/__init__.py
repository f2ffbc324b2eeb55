"""How many replicas each model gets, and who makes room: pure functions over facts, no I/O and no clock of their own."""
