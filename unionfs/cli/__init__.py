"""What does the user type, and what is the user told?  Arguments, `-o` options, the background, messages, exit
status."""
