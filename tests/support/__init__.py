"""What tests are made with: fleets and daemons, other programs as judges, and what they attack with."""
