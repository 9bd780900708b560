"""A request → a run → events → handlers. Faces (command line, pytest, ``check_deq``) make requests and hand over
handlers, and an executor says where jobs run."""
