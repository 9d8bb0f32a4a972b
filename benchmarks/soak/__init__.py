"""Very many requests, right ones and wrong ones, against the real service: does it keep its promises all the way?"""
