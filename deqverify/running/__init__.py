"""Laws × implementations → events → verdicts. Faces (command line, pytest, ``check_deq``) only consume what stands
here."""
