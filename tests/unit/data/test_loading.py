from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

from medcodi.config import load_config
