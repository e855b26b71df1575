"""What more machines gain: a simulation held against measurements, and what work costs."""
