"""Engine against engine on one machine: each in a process of its own, no server and no network around it."""
