"""What does the server do for each workload: which requests reach it, and where does its time go?"""
