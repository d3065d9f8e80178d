"""Pure scaling decisions and the simulator that judges them."""
