"""How many replicas each model gets, and who makes room: pure functions over facts, without I/O or a clock."""
