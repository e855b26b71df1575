"""What a command tells: tables, records, samples, pages, progress bars."""
