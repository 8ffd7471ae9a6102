"""What every room uses: files, batches, tables, threads. It knows nothing of networks."""
