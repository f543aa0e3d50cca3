"""What lies in a folder, what it is good for, and the settings that make it so."""
