"""Many clips from a list: what is wanted, who generates it, and what is finished."""
