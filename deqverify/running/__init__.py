"""Laws × implementations → events → verdicts. Faces (command line, pytest, ``check_deq``) only consume what stands
here.

Private: what of it is public stands in ``deqverify`` itself.
"""
