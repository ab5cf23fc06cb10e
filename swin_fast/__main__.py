import sys

from swin_fast.cli import main

sys.exit(main())
