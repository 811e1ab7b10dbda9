"""How the members' distributions become one, and how much each member counts."""
