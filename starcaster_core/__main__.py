"""python -m starcaster_core"""

from .cli import main

raise SystemExit(main())
