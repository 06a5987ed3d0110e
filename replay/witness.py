def witnesses(*a): return ()
