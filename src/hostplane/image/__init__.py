"""From a recipe to a disk that boots and a bundle that upgrades one."""
