"""What may keep als from working on this machine, and what to do about it.

Three steps, apart so that each can be tested: :mod:`als.doctor.gather` asks the machine, :mod:`als.doctor.facts` is what it
found, :mod:`als.doctor.checks` judges. The judgement touches nothing, so a test can feed it any machine.
"""
