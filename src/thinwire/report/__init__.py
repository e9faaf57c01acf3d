"""What people see: progress, tables, plots."""
