"""What a training on any machine needs and a paper does not tell: files, devices, processes."""

WAITING = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "2000"}
"""How threads wait, for the environment before torch loads: they spin for some microseconds, then
sleep.

By torch's own setting they spin, and beside a browser they keep the core from the thread that they
wait for; threads that sleep at once take long to wake (results/bench/busy.csv).
"""
